"""The steps of a study and of preprocessing: their order, and what is out of date."""
