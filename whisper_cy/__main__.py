"""python -m whisper_cy: the same as the whisper-cy command."""

import sys

from .cli import main

sys.exit(main())
