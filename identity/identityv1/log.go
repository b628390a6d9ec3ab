// SPDX-License-Identifier: Apache-2.0

package identityv1

import (
	"io"
	"log"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// gRPC prints its own errors to stderr, which may block, unless it is told
// otherwise before it is used: not later than here. They go to the standard
// library's logger, and so to the log of the program.
func init() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, standardLog{}))
}

type standardLog struct{}

func (standardLog) Write(text []byte) (int, error) {
	log.Print("grpc: ", strings.TrimSpace(string(text)))
	return len(text), nil
}
