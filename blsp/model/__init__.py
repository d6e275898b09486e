"""The parts and the model: the one owner of the prompt, encoder, adapter, CTC, generation, BLSP, the recognizer."""
