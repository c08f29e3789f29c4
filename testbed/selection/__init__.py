"""Define worlds for the selector's rules, and the promises that the rules keep in them."""
