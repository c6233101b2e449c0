"""All recipes, one after another: `python -m recipes [--bootstrap HOST:PORT]`."""

import sys

from recipes import engine_runs, fixed_batch, one_sensor, predict_loop, reconstruction, residuals, scalers, short_sequences, trained_windows
from recipes.running import main

RECIPES = (one_sensor, fixed_batch, short_sequences, residuals, trained_windows, reconstruction, engine_runs, predict_loop, scalers)

sys.exit(main([recipe.run for recipe in RECIPES]))
