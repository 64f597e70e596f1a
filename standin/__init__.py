"""The stand-in: a tiny base model in SD v1.5's layout, its drawn world, its three styles, and how it is measured."""
