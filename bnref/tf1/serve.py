"""A process that holds TensorFlow servers; `bnref.tf1.servers` starts it, as a script.

``python serve.py LIBRARY`` reads one server definition a line (protocol buffer, base64), up to an
empty line, starts the servers, says ``ready``, and ends with its standard input. TensorFlow cannot
stop a server it has started ("Clean shutdown is not currently implemented"): only the end of its
process closes the ports and frees the memory. The servers are started through TensorFlow's C
interface, because importing its Python part would take seconds.
"""

import base64
import ctypes
import os
import sys

__all__ = []


def main():
    """Start the servers, wait for the end of standard input, end the process."""
    library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
    pointer = ctypes.c_void_p
    library.TF_NewStatus.restype = library.TF_NewServer.restype = pointer
    library.TF_NewServer.argtypes = [ctypes.c_char_p, ctypes.c_size_t, pointer]
    library.TF_ServerStart.argtypes = [pointer, pointer]
    library.TF_GetCode.argtypes = library.TF_Message.argtypes = [pointer]
    library.TF_Message.restype = ctypes.c_char_p
    status = library.TF_NewStatus()

    def check():
        if library.TF_GetCode(status):
            print(library.TF_Message(status).decode(), flush=True)
            os._exit(1)

    for line in iter(sys.stdin.readline, "\n"):
        definition = base64.b64decode(line)
        server = library.TF_NewServer(definition, len(definition), status)
        check()
        library.TF_ServerStart(server, status)
        check()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)  # without the destructors of running servers


if __name__ == "__main__":
    main()
