"""What is learned from, and how: behaviours, batches, trainers."""
