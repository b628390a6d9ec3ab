// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// Keys of log records.
const (
	logContainer = "container"
	logNamespace = "namespace"
	logNetns     = "netns"
	logPod       = "pod"
	logUID       = "uid"
	logVerb      = "verb"
)

// maxLog is when the log is moved to "<file>.1", over the one before.
const maxLog = 10 << 20

// log writes to the config's log file, which is there when ztunnel is not and
// when the runtime discards stderr. A log that cannot be written stops no pod.
func (c config) log(verb string, req enroll.Request) (log *slog.Logger, done func()) {
	var out io.Writer = os.Stderr
	done = func() {}
	if c.LogFile != "" {
		if f, err := openLog(c.LogFile); err == nil {
			out, done = f, func() { f.Close() }
		}
	}
	log = slog.New(slog.NewJSONHandler(out, nil)).With(
		logVerb, verb, logNamespace, req.PodNamespace, logPod, req.PodName, logUID, req.PodUID,
		logContainer, req.ContainerID, logNetns, req.Netns)
	return log, done
}

func openLog(path string) (*os.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
}
