"""How a model is got, stage by stage."""
