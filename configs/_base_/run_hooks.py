# What watches over every run: checkpoints fit the model, heads fit the data, samples that were left out are listed, a
# resumed run continues exactly, and a run that would fail late is refused before its first step
custom_hooks = [
    dict(type='StrictLoadHook'),
    dict(type='NumClassesHook'),
    dict(type='SkippedSamplesHook'),
    dict(type='ResumeHook'),
    dict(type='CheckRunHook'),
]
