"""The trainer: a folder of captioned pictures and an SD v1.5 or SDXL checkpoint become one style LoRA.

    python training/train.py --base sd15.safetensors --data pictures --output monet.safetensors --trigger "monet style"

From Python, with tensors instead of a folder:

    base = Base.from_comfy(model)                       # a ComfyUI MODEL
    samples = Samples(latents=latents, context=context, caption_of=index)
    trained = train(base, samples, TrainSettings(steps=400, batch=8, lr=3e-3))
    export(trained.lora, "monet.safetensors", base.model, metadata={...})

How the room is divided; imports run downwards only:

    train.py       makes the pack importable, nothing else
    describe.py    shows what is in any LoRA file; describe_cli.py prints what mixlora_core/description.py finds out
    learn_mix.py   learns how loudly each of several LoRAs speaks in each block; learn_mix_cli.py is its command line
    mix_inputs.py  LoRA files as voices of a mixture; latents that the base paints for prompts
    learning.py    coefficients by gradient: towards centred Composite, or towards pictures   (pure torch)
    mixture.py     frozen adapters with a coefficient for each of them and each block         (pure torch)
    search.py      strengths by black-box search with a budget                     (numpy, cmaes)
    train_router.py  trains a router over finished LoRAs: router_cli.py, router_options.py, router_settings.py
    router.py      routers in training                                         (pure torch)
    router_experts.py  LoRA files as a router's experts; the router file
    map_router.py  which expert serves which region, as a picture: router_map.py
    cli.py         the order of work
    ending.py      how a call ends: exit codes, advice, what is said last
    options.py     command line and TOML file -> Job
    run_folder.py  where a run's files lie; the lock against a second run
    between.py     what happens between steps: validation, sample pictures, files on the way, curves
    display.py     the progress bar, or lines where there is no terminal
    board.py       TensorBoard, if asked for
    curves.py      losses -> curves.png and losses.csv; chart.py draws them with Pillow
    sample_pictures.py  prompts -> pictures through ComfyUI's sampler, on one sheet
    export.py      a trained LoRA -> one file that ComfyUI, A1111 and diffusers read; checks what it wrote
    metadata.py    what the file says about itself, and its hashes
    encoding.py    pictures and captions -> Samples, through ComfyUI's VAE and text encoder
    cache.py       encodings on disk, under all that they depend on
    dataset.py     looks at a folder of captioned pictures; reports every problem at once
    sources.py     which pictures and captions lie in a folder                 (standard library)
    pictures.py    picture files: decoded, looked at, brought to one size      (Pillow)
    buckets.py     the sizes that pictures are brought to                      (standard library)
    captions.py    trigger words, orders of tags, lengths
    base.py        a ComfyUI checkpoint -> Base: frozen UNet, noise schedule, kind of prediction
    loop.py        the training loop, from tensors to a trained LoRA          (pure torch)
    run.py         one run's tensors: gradient, update, state                  (pure torch)
    objective.py   noise, target, loss weights, learning rate, clipping        (pure torch)
    watching.py    what the loop shows between two steps, and to whom          (pure torch)
    validation.py  held-out pictures, always with the same noise               (pure torch)
    optimizers.py  AdamW, Lion, Prodigy; their state as tensors                (pure torch)
    distribution.py  several processes as one run                              (pure torch, accelerate)
    checkpoint.py  the state of an unfinished run; when it is saved            (pure torch)
    stopping.py    signals and time limits                                     (standard library)
    lora.py        all low-rank factors as one flat fp32 parameter             (pure torch)
    lowrank.py     a frozen layer and its adapter, forward and backward        (pure torch)
    targets.py     which layers and blocks are adapted                         (pure torch)
    draw.py        what micro-batch number k is: pictures, timesteps, noise    (pure torch)
    samples.py     latents, contexts, which belongs to which; batches          (pure torch)
    files.py       hashes and copies of tensors; bytes, atomic writing, from the core  (pure torch)
    settings.py    every option, its range and its help                        (standard library)

Three decisions carry the rest. All that is trained is one flat vector, so the optimizer, the norm, the finite check,
the moving average and the saved state each handle one tensor. All randomness is a function of the seed and of the
number of the sample, so a resumed run needs no generator state, and a batch of 4 sees the same samples as 4 accumulated
batches of 1. And the base's UNet is ComfyUI's own, untouched: an adapted layer has another forward, only while training
runs.
"""
