"""From a wish to a picture: recipe, preflight, plan, calibration, run."""
