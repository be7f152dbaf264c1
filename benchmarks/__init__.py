"""The scripts behind every figure in the documents. Opacus installs a package of this name, so ours is one too."""
