"""The gradio interface."""
