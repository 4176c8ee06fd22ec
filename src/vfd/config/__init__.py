"""The files on disk: VFd's formats, into policy and back."""
