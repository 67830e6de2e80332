"""Reading other tools' result files into a run folder."""
