// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/x509"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
)

// wire is a stream whose other end says what it likes, byte by byte, and then leaves.
type wire struct {
	grpc.ServerStream
	ctx  context.Context
	says [][]byte
	sent []proto.Message
}

func (w *wire) Context() context.Context { return w.ctx }

// RecvMsg fails as gRPC does if the bytes are not a message.
func (w *wire) RecvMsg(m any) error {
	if len(w.says) == 0 {
		return io.EOF
	}
	text := w.says[0]
	w.says = w.says[1:]
	if err := proto.Unmarshal(text, m.(proto.Message)); err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

func (w *wire) SendMsg(m any) error {
	w.sent = append(w.sent, m.(proto.Message))
	return nil
}

// messages cuts bytes into messages: a byte says how long the next one is.
func messages(text []byte) (all [][]byte) {
	for len(text) > 0 {
		n := min(int(text[0]), len(text)-1)
		all, text = append(all, text[1:1+n]), text[1+n:]
	}
	return all
}

// said is what messages cuts into those.
func said(all ...proto.Message) (text []byte) {
	for _, m := range all {
		one := must(proto.Marshal(m))
		text = append(append(text, byte(len(one))), one...)
	}
	return text
}

// handlers are the streams by the bytes that choose them.
func handlers(r *Server) []func(*wire) error {
	return []func(*wire) error{
		func(w *wire) error {
			return r.StreamBundle(&grpc.GenericServerStream[identityv1.BundleAck, identityv1.Bundle]{ServerStream: w})
		},
		func(w *wire) error {
			return r.StreamDeny(&grpc.GenericServerStream[identityv1.DenyAck, identityv1.DenySet]{ServerStream: w})
		},
	}
}

// run is one stream, until its end.
func (w *wire) run(ctx context.Context, handle func(*wire) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.ctx = ctx
	return handle(w)
}

// CVE-2022-23635, GHSA-86vr-4wcv-mm9w, of streams: a stranger is sent nothing, whatever
// token and certificate it shows and whatever it says. A node that has proved itself may say
// anything, too: the stream goes on, or is refused, and what is kept of it is well-formed.
func FuzzStreams(f *testing.F) {
	store := join.Directory(f.TempDir())
	denied := deny.NewSet()
	denied.Replace(7, longest(40, 1000)) // of two messages
	doors := newRig(f, func(c *Config) { c.Join, c.Denied = store, denied })
	p := newProc()
	p.take(f, must(doors.CreateCertificate(withToken(context.Background(), joinToken(f, store, batchID).Text()), p.request(batchID))))
	home := newRig(f, func(c *Config) {
		c.Attestor, c.Denied, c.NodeRate, c.NodeBurst = alwaysNode1{}, denied, 1e9, 1e9
	})
	generation, _ := home.cfg.CA.Bundle()

	bundles := said(&identityv1.BundleAck{Generation: 1 << 60}, &identityv1.BundleAck{Generation: generation, Sha256: make([]byte, 32)})
	f.Add(byte(0), "a.b.c", []byte{}, bundles)
	f.Add(byte(0), "", p.chain[0].Raw, bundles)
	f.Add(byte(1), "culvert-join.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", p.chain[1].Raw, said(&identityv1.DenyAck{}, &identityv1.DenyAck{Generation: 8}))
	f.Add(byte(1), "", []byte{}, []byte{3, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, which byte, token string, der, text []byte) {
		ctx := context.Background()
		if token != "" {
			ctx = withToken(ctx, token)
		}
		if cert, err := x509.ParseCertificate(der); err == nil {
			ctx = shown(ctx, cert) // a process, too: it speaks for no node
		}
		stranger := &wire{says: messages(text)}
		if err := stranger.run(ctx, handlers(doors.Server)[which&1]); err == nil || len(stranger.sent) > 0 {
			t.Fatalf("a stranger was sent %v, and %v", stranger.sent, err)
		}
		node := &wire{says: messages(text)}
		err := node.run(withToken(ctx, "any"), handlers(home.Server)[which&1])
		switch status.Code(err) {
		case codes.OK, codes.InvalidArgument, codes.ResourceExhausted, codes.Internal:
		default:
			t.Fatalf("a node is told %v", err)
		}
		if want := 1 + int(which&1); len(node.sent) != want {
			t.Fatalf("a node was sent %d messages, want %d", len(node.sent), want)
		}
		for name, ack := range home.Acks() {
			if n := len(ack.SHA256); name != "node-1" || n != 0 && n != 64 {
				t.Fatalf("the ack of %s is %+v", name, ack)
			}
		}
	})
}
