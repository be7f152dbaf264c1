"""The app that real hospitals run: a hospital's ClientApp, which answers under its own policy alone."""
