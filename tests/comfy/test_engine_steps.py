"""The step comes from sigma, in every sampler that ComfyUI lists."""

import pytest
import torch

ADAPTERS = 3


def sampler_names():
    # Listed by hand where ComfyUI is not yet imported at collection; the test below compares with the real list.
    return [
        "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2",
        "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp",
        "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
        "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm",
        "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
        "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
    ]  # fmt: skip


def test_all_samplers_are_listed():
    import comfy.samplers

    assert set(sampler_names()) == set(comfy.samplers.KSampler.SAMPLERS)


@pytest.mark.parametrize("sampler", sampler_names())
def test_the_step_comes_from_sigma_in_every_sampler(sampler, sd15, three, compose, methods, models, untouched):
    """At every call the weights are those of the adapter in whose step that noise level lies."""
    import comfy.samplers

    names = (key for key, _ in sd15.model.named_parameters())
    name = next(key for key in names if key.endswith("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"))
    base = sd15.model.get_parameter(name).clone()
    changes = {}
    for index, entry in enumerate(three.entries):
        tensors = entry.file.tensors
        up, down = (tensors[f"{models.LINEAR}.lora_{part}.weight"] for part in ("up", "down"))
        changes[index] = base + entry.strength_model * 0.5 * (up @ down)  # alpha 2, rank 4
    seen = []

    def look(sigma):
        now = sd15.model.get_parameter(name)
        seen.append((sigma, next(i for i, weight in changes.items() if torch.allclose(now, weight, atol=1e-6))))

    steps, every = 7, 2
    model = models.watched(compose(three, methods.Switch(ADAPTERS, every), "swap"), look)
    levels = comfy.samplers.KSampler(model, steps, "cpu", sampler, "normal", 1.0).sigmas.tolist()
    models.sample(model, sampler=sampler, steps=steps)
    assert len(seen) >= steps - 1
    for sigma, speaker in seen:
        inside = [k for k in range(steps) if levels[k + 1] * 1.0001 < sigma <= levels[k] * 1.0001]
        step = inside[0] if inside else (0 if sigma > levels[0] else steps - 1)
        assert speaker == (step // every) % ADAPTERS, (sigma, levels)
