// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// The C proxies, all with mutual TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, and
// no sessions: each connection proves both ends anew, as in a mesh.

// configure writes a configuration for each end and returns the paths.
func (w *world) configure(name string, near, far string) (paths [2]string, err error) {
	for i, text := range []string{near, far} {
		paths[i] = filepath.Join(w.keys.dir, fmt.Sprintf("%s-%d.conf", name, i))
		if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
			return paths, err
		}
	}
	return paths, nil
}

func stunnels(w *world, near, far end) (c [2][]string, err error) {
	text := func(client string, e end) string {
		return fmt.Sprintf(`foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[bench]
client = %s
accept = %v
connect = %v
cert = %s
key = %s
CAfile = %s
verifyChain = yes
sslVersion = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
curves = X25519
options = NO_TICKET
sessionResume = no
`, client, e.listen, e.to, w.keys.Cert, w.keys.Key, w.keys.Roots)
	}
	paths, err := w.configure(stunnel, text("yes", near), text("no", far))
	for i, path := range paths {
		c[i] = []string{"stunnel", path}
	}
	return c, err
}

func nginxes(w *world, near, far end) (c [2][]string, err error) {
	text := func(name string, e end, tls string) string {
		return fmt.Sprintf(`load_module modules/ngx_stream_module.so;
user root;
daemon off;
pid %s/nginx-%s.pid;
error_log stderr error;
worker_processes 2;
events { worker_connections 8000; }
stream {
	proxy_buffer_size 256k;
	proxy_half_close on;
	tcp_nodelay on;
	server {
		%s
		proxy_pass %v;
	}
}
`, w.keys.dir, name, tls, e.to)
	}
	client := fmt.Sprintf(`listen %v backlog=4096;
		proxy_ssl on;
		proxy_ssl_protocols TLSv1.3;
		proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		proxy_ssl_conf_command Groups X25519;
		proxy_ssl_certificate %s;
		proxy_ssl_certificate_key %s;
		proxy_ssl_trusted_certificate %s;
		proxy_ssl_verify on;
		proxy_ssl_name %s;
		proxy_ssl_session_reuse off;`, near.listen, w.keys.Cert, w.keys.Key, w.keys.Roots, serverName)
	server := fmt.Sprintf(`listen %v ssl backlog=4096;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_ecdh_curve X25519;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_client_certificate %s;
		ssl_verify_client on;
		ssl_session_tickets off;
		ssl_session_cache off;`, far.listen, w.keys.Cert, w.keys.Key, w.keys.Roots)
	paths, err := w.configure(nginx, text("near", near, client), text("far", far, server))
	for i, path := range paths {
		c[i] = []string{"nginx", "-p", "/usr/share/nginx", "-c", path}
	}
	return c, err
}

func haproxies(w *world, near, far end) (c [2][]string, err error) {
	text := func(listen, server string, e end) string {
		return fmt.Sprintf(`global
	nbthread 2
	maxconn 8000
	tune.bufsize 65536
	tune.ssl.cachesize 0
	ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
	ssl-default-bind-curves X25519
	ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
	ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
	ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
	mode tcp
	timeout connect 10s
	timeout client 1h
	timeout server 1h
listen bench
	bind %v %s
	server far %v %s
`, e.listen, listen, e.to, server)
	}
	mutual := fmt.Sprintf("ssl crt %s ca-file %s verify required", w.keys.bundle, w.keys.Roots)
	paths, err := w.configure(haproxy,
		text("", mutual+" verifyhost "+serverName+" no-ssl-reuse", near), text(mutual, "", far))
	for i, path := range paths {
		c[i] = []string{"haproxy", "-db", "-f", path}
	}
	return c, err
}
