"""A real S3 server in memory, for tests. Prints its port, and ends when its standard input does."""

import os
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

dispatcher = DomainDispatcherApplication(create_backend_app)
dispatcher.debug = False
# It keeps objects in dictionaries without locks. A test must not depend on how its threads meet.
one_at_a_time = threading.Lock()


def application(environ, start_response):
    with one_at_a_time:
        return dispatcher(environ, start_response)


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


def end_with_parent():
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
# The server calls itself by this variable in what it answers.
os.environ["MOTO_PORT"] = str(server.server_port)
print(server.server_port, flush=True)
server.serve_forever()
