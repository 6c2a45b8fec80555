"""Why a detector scores what it does."""
