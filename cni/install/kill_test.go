// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asProcess names what this test binary does instead of testing.
const asProcess = "CULVERT_INSTALL_TEST"

// process installs or uninstalls as the environment says, after a line on stdout.
func process(what string) int {
	var r Removal
	if err := json.Unmarshal([]byte(os.Getenv(asProcess+"_CONFIG")), &r); err != nil {
		panic(err)
	}
	fmt.Println("begins")
	if what == "uninstall" {
		if err := Uninstall(context.Background(), r); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	in, err := New(r.Config)
	if err != nil {
		panic(err)
	}
	_ = in.Run(context.Background()) // until it is killed
	return 0
}

// spawn starts a process, and returns when it begins its work.
func (n *node) spawn(what string) *exec.Cmd {
	n.t.Helper()
	config := n.config()
	config.Log = nil
	text, err := json.Marshal(Removal{Config: config, CacheDir: n.cache, Grace: 2 * time.Millisecond})
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asProcess+"="+what, asProcess+"_CONFIG="+string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begins\n" {
		n.t.Fatalf("%s says %q, %v", what, line, err)
	}
	return cmd
}

// TestKilledAtAnyMomentNoListNamesAMissingProgram looks at the node all the time
// while installers of two versions and uninstallers are killed on it, and its
// primary CNI writes its configs anew.
func TestKilledAtAnyMomentNoListNamesAMissingProgram(t *testing.T) {
	n := newNode(t)
	programs := []string{strings.Repeat("version 1", 100_000), strings.Repeat("version two", 100_000)}
	single := `{"cniVersion":"0.4.0","name":"ovn","type":"ovn","n":%d}`
	configs := []func(i int){
		func(i int) {
			n.writes("10-flannel.conflist", strings.Replace(flannel, "cbr0", fmt.Sprint("cbr", i), 1))
		},
		func(i int) { n.writes("05-ovn.conf", fmt.Sprintf(single, i)) },
		func(int) { os.Remove(filepath.Join(n.conf, "05-ovn.conf")) },
	}
	configs[0](0)

	stop, looks := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				looks <- i
				return
			default:
				n.lookForHarm(programs)
			}
		}
	}()
	kills := 200
	if testing.Short() {
		kills = 40
	}
	for i := range kills {
		put(t, n.program, programs[rand.N(2)])
		what := "install"
		if rand.N(3) == 0 {
			what = "uninstall"
		}
		cmd := n.spawn(what)
		if rand.N(2) == 0 {
			configs[rand.N(len(configs))](i)
		}
		<-time.After(rand.N(25 * time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()
	}
	close(stop)
	if looked := <-looks; looked < kills {
		t.Errorf("looked %d times only", looked)
	}

	os.Remove(filepath.Join(n.conf, "05-ovn.conf"))
	put(t, n.program, programs[1])
	configs[0](1000)
	_, end := n.run()
	n.wantChain("an installer that nobody kills", "flannel", "portmap", "culvert-cni")
	await(t, "nothing half written is left", func() string {
		if got := fmt.Sprint(names(contents(t, n.conf)), names(contents(t, n.bin))); got != "[10-flannel.conflist] [culvert-cni]" {
			return got
		}
		return ""
	})
	end()
	if contents(t, n.bin)["culvert-cni"] != programs[1] {
		t.Error("the program is not the last that was installed")
	}
}

// lookForHarm fails the test if a config cannot be read, or names the plugin and
// there is no whole program to run.
func (n *node) lookForHarm(programs []string) {
	files, err := configs(n.conf)
	if err != nil {
		n.t.Error(err)
	}
	for _, file := range files {
		before := n.naming(file)
		if before == nil {
			continue
		}
		st, err := os.Stat(filepath.Join(n.bin, "culvert-cni"))
		if err == nil && st.Mode() == fs.FileMode(0o755) && (st.Size() == int64(len(programs[0])) || st.Size() == int64(len(programs[1]))) {
			continue
		}
		if after := n.naming(file); after != nil && sameFile(before, after) { // so it named it all the time in between
			n.t.Errorf("%s names a program that is %v, %v", file, st, err)
		}
	}
}

// naming returns the state of a config in which it names the plugin, or nil.
func (n *node) naming(file string) fs.FileInfo {
	f, err := os.Open(filepath.Join(n.conf, file))
	if err != nil {
		return nil // gone since
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		n.t.Error(err)
		return nil
	}
	data, err := io.ReadAll(f)
	if err != nil || !json.Valid(data) {
		n.t.Errorf("%s cannot be read: %v, %q", file, err, data)
	}
	if !strings.Contains(string(data), `"culvert-cni"`) {
		return nil
	}
	return st
}
