"""What is inside a PyTorch Lightning checkpoint: a Mult-VAE recommender and the tools to take its file apart."""
