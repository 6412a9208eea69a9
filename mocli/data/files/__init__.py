"""Reading: what an input file holds, its tables now and its matrices when asked for."""
