"""What there is outside of a cluster, for tests: a web server that tells its clients their address, and a name server that
gives one address to every name.
    outside.py web ADDRESS          outside.py names ADDRESS ANSWER
"""
import http.server
import socket
import struct
import sys


class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def names(address, answer):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        query, client = server.recvfrom(4096)
        end = query.index(0, 12) + 5
        (kind,) = struct.unpack(">H", query[end - 4 : end - 2])
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(answer) if kind == 1 else b""
        counts = struct.pack(">HHHH", 1, 1 if record else 0, 0, 0)
        server.sendto(query[:2] + b"\x81\x80" + counts + query[12:end] + record, client)


if sys.argv[1] == "web":
    http.server.ThreadingHTTPServer((sys.argv[2], 80), Mirror).serve_forever()
else:
    names(*sys.argv[2:])
