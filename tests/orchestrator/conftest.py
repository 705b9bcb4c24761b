import sys
from pathlib import Path

# The helpers of these tests (``simulation``) are imported by name.
sys.path.insert(0, str(Path(__file__).parent))
