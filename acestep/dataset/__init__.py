"""Songs and their labels: found in a folder, kept in one JSON file, turned into the text to train on. No torch."""
