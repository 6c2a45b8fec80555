"""Why a segmentor scores what it does."""
