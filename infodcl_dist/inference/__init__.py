"""From trained tables to answers: propagation, ranking, metrics, export."""
