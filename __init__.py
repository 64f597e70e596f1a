"""MixLoRA: blend several style LoRAs in one picture. ComfyUI imports this folder as a custom node pack."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The pack's extension object, for ComfyUI; imports the nodes only now, so that `import mixlora` stays light."""
    from .nodes import MixLoRAExtension

    return MixLoRAExtension()
