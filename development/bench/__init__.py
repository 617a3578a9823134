"""The benchmark: this package against ComfyUI's own code, step by step and in whole runs, on the machine it runs on."""
