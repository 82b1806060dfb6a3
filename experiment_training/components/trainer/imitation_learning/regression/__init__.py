"""Action chunks by plain regression."""
