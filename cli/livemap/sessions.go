// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

const (
	believeFor  = time.Minute      // an answer of the API server
	refuseFor   = 10 * time.Second // a token that it did not know
	maxSessions = 1000
	maxOfUser   = 50       // of them, those of one owner of tokens
	maxArriving = 64       // whose tokens wait to be reviewed for the first time
	maxRefused  = 1000     // tokens that are remembered as none
	maxToken    = 16 << 10 // bytes
	maxReviews  = 4        // questions for sessions that are asked at a time
	maxFirst    = 2        // questions for those that arrive
)

// errBusy says that others wait already to be let in.
var errBusy = errors.New("too many tokens wait to be reviewed")

// sessions are the viewers, by a hash of what each of them shows. Strangers cost them
// nothing: whose token is not reviewed yet is apart.
type sessions struct {
	once              sync.Once
	asking, admitting chan struct{} // turns to ask the API server

	mu       sync.Mutex // guards what follows
	all      map[string]*session
	arriving map[string]*session
	refused  map[string]time.Time // tokens that were none, by their hash
}

// session is a viewer.
type session struct {
	sealed     []byte    // the token of one who signed in, which only the cookie opens; nil: each request has it
	owner      string    // set, with made and used, by sessions
	made, used time.Time // guarded by sessions.mu

	mu    sync.Mutex // guards what follows; held while the API server is asked
	asked time.Time
	of    string // the namespaces that were asked about
	user  kubeapi.User
	sight Sight
	err   error
}

func ofCookie(cookie string) string { return fmt.Sprintf("c:%x", sha256.Sum256([]byte(cookie))) }
func ofToken(token string) string   { return fmt.Sprintf("t:%x", sha256.Sum256([]byte(token))) }

func (t *sessions) begin() {
	t.once.Do(func() {
		t.asking, t.admitting = make(chan struct{}, maxReviews), make(chan struct{}, maxFirst)
		t.all, t.arriving, t.refused = map[string]*session{}, map[string]*session{}, map[string]time.Time{}
	})
}

// find returns the session of a key, or nil. One that was signed in ends with its cookie.
func (t *sessions) find(key string, now time.Time) *session {
	t.begin()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.all[key]
	if s == nil {
		return nil
	}
	if s.sealed != nil && now.Sub(s.made) >= cookieFor {
		delete(t.all, key)
		return nil
	}
	s.used = now
	return s
}

// arrive returns a session that is none yet: the same one for all that show the same.
func (t *sessions) arrive(key, token string, sealed []byte, now time.Time) (*session, error) {
	t.begin()
	t.mu.Lock()
	defer t.mu.Unlock()
	if since, known := t.refused[ofToken(token)]; known && now.Sub(since) < refuseFor {
		return nil, ErrStranger
	}
	if s := t.all[key]; s != nil {
		return s, nil
	}
	s := t.arriving[key]
	if s == nil {
		if len(t.arriving) >= maxArriving {
			return nil, errBusy
		}
		s = &session{sealed: sealed}
		t.arriving[key] = s
	}
	return s, nil
}

// settle makes a session of one that arrived, if the API server vouches for it.
func (t *sessions) settle(key, token string, s *session, owner string, err error, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.arriving, key)
	switch {
	case errors.Is(err, ErrStranger):
		if len(t.refused) >= maxRefused {
			clear(t.refused)
		}
		t.refused[ofToken(token)] = now
	case err == nil && t.all[key] == nil:
		t.makeRoom(owner)
		s.owner, s.made, s.used = owner, now, now
		t.all[key] = s
	}
}

// makeRoom drops the session that was not used for the longest time, if there are too many:
// of the same owner, if these are too many; mu is held.
func (t *sessions) makeRoom(owner string) {
	own := 0
	for _, s := range t.all {
		if s.owner == owner {
			own++
		}
	}
	if own < maxOfUser && len(t.all) < maxSessions {
		return
	}
	oldest := ""
	for key, s := range t.all {
		if own >= maxOfUser && s.owner != owner {
			continue
		}
		if oldest == "" || s.used.Before(t.all[oldest].used) {
			oldest = key
		}
	}
	delete(t.all, oldest)
}

func (t *sessions) end(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, key)
}

// seal encrypts a token by its cookie, which this process does not keep: its memory alone
// gives nobody's token away.
func seal(token, cookie string) ([]byte, error) {
	lock, err := lockOf(cookie)
	if err != nil {
		return nil, err
	}
	return lock.Seal(nil, nil, []byte(token), nil), nil
}

// open returns the token that was sealed by a cookie.
func (s *session) open(cookie string) (string, error) {
	lock, err := lockOf(cookie)
	if err != nil {
		return "", err
	}
	token, err := lock.Open(nil, nil, s.sealed, nil)
	if err != nil {
		return "", ErrStranger
	}
	return string(token), nil
}

func lockOf(cookie string) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte("seal " + cookie))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
