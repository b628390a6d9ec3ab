// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
)

func BenchmarkBulk(b *testing.B) {
	for _, streams := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(streams), func(b *testing.B) {
			l, far := newPipe(b)
			var all sync.WaitGroup
			const chunk = 256 << 10
			b.SetBytes(chunk)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range streams {
				a, sink := l.open(), <-far
				all.Go(func() {
					buf := make([]byte, chunk)
					for range b.N/streams + min(1, b.N%streams/(i+1)) {
						if _, err := a.Write(buf); err != nil {
							b.Error(err)
							return
						}
					}
					a.CloseWrite()
				})
				all.Go(func() {
					buf := make([]byte, chunk)
					for {
						if _, err := sink.Read(buf); err == io.EOF {
							return
						} else if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}

func BenchmarkEcho(b *testing.B) {
	l := newLink(b, nil)
	a := l.open()
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		a.Write(buf)
		io.ReadFull(a, buf)
	}
}

func BenchmarkOpen(b *testing.B) {
	l := newLink(b, func(s *Stream) {
		s.Accept()
		<-s.Done()
		s.Reset()
	})
	l.open()
	b.ReportAllocs()
	for b.Loop() {
		s, err := l.pool.Open(context.Background(), l.key, l.target(l.key))
		if err != nil {
			b.Fatal(err)
		}
		s.Reset()
	}
}
