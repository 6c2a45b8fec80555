"""Why a model scores what it does: result files, and figures that detection and segmentation share."""
