"""From a result to an acknowledged batch: nothing measured is lost on the way."""
