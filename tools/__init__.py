"""What a developer runs: set-up, the demo, a ComfyUI server and its client, the example workflows, the archive."""
