"""Models on servers: the Hugging Face hub, timm's and torchvision's, and how their files are fetched."""
