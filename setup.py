"""Installs the packages; configs and tools travel inside ``mmengine_plugin``, never as top-level packages."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithIndex(build_py):
    """Also puts the index of the models where OpenMIM looks for it: into the first package in alphabetical order."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, 'backbones/.mim')
            (folder / 'configs').mkdir(parents=True, exist_ok=True)
            models = (HERE / 'configs/metafile.yml').read_text(encoding='utf-8')
            models = models.replace('Config: ', 'Config: ../../mmengine_plugin/')
            (folder / 'configs/metafile.yml').write_text(models, encoding='utf-8')
            shutil.copy(HERE / 'model-index.yml', folder)


setup(
    name='mambaout-dense',
    version='0.2.0.dev0',
    description='MambaOut as a backbone for detection and segmentation with mmdet and mmsegmentation',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    cmdclass=dict(build_py=BuildWithIndex),
    packages=[
        *find_packages(include=['backbones*', 'mmdet_plugin*', 'mmengine_plugin*', 'mmseg_plugin*', 'timm_plugin*']),
        'mmengine_plugin.configs',
        'mmengine_plugin.tools',
    ],
    package_dir={'mmengine_plugin.configs': 'configs', 'mmengine_plugin.tools': 'tools'},
    package_data={'mmengine_plugin.configs': ['*/*.py'], 'mmengine_plugin.tools': ['*.sh']},
    # Each range holds what was tried. constraints.txt holds the exact set that the tests ran with.
    install_requires=[
        'torch>=2.12',
        'torchvision>=0.27',
        'timm>=1.0.26',
        'mmengine>=0.11.0rc3,<1',  # a pre-release by name: pip takes it only so, and 0.10 cannot resume on torch 2.6+
        'mmcv-lite==2.1.0',  # mmdet and mmseg refuse 2.2; a compiled mmcv 2.1.0 has the same Python files
        'mmdet==3.3.0',
        'mmsegmentation==1.2.2',
        'ftfy',  # mmseg imports these two and does not say so
        'regex',
        'huggingface_hub>=0.34',
        'filelock',
        'safetensors',
        'faster-coco-eval>=1.6.5,<1.9',
        'tensorboard',
        'tqdm',
    ],
    extras_require={'test': ['pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', 'seaborn', 'setuptools', 'wheel']},
)
