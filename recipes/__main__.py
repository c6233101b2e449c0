"""All recipes, one after another: `python -m recipes [--bootstrap HOST:PORT]`."""

import sys

from recipes import fixed_batch, one_sensor, reconstruction, residuals, short_sequences, trained_windows
from recipes.running import main

sys.exit(main([one_sensor.run, fixed_batch.run, short_sequences.run, residuals.run, trained_windows.run, reconstruction.run]))
