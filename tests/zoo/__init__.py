"""Objects by name, over which laws run: distributions, families, learners, models."""
