"""What names of features mean: intervals, genes, antigens."""
