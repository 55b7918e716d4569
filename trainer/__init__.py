"""Makes the weights that ``engine`` ships. Nothing at run time needs this package."""
