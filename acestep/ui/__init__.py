"""The pages: what people see in the browser. Importing this imports neither gradio nor torch."""
