"""What describes a model without training it: metrics, audio previews, gradient sensitivity."""
