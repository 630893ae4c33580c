"""Commands over the package: thin, one file each. ``cli`` is the console command ``mer``."""
