"""From a checkpoint to a policy that a robot can use."""
