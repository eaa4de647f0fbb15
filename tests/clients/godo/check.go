package main

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/digitalocean/godo"
)

// checks counts named checks and prints one line each.
type checks struct {
	passed, failed int
}

func (c *checks) ok(name string) {
	c.passed++
	fmt.Println("ok", name)
}

func (c *checks) fail(name string, expected, got any) {
	c.failed++
	text := strings.ReplaceAll(fmt.Sprintf("FAIL %s: expected %v got %v", name, expected, got), "\n", " ")
	fmt.Println(text)
}

// is compares by ==, so both must be of one type.
func (c *checks) is(name string, expected, got any) {
	if expected == got {
		c.ok(name)
		return
	}
	c.fail(name, fmt.Sprintf("`%v`", expected), fmt.Sprintf("`%v`", got))
}

func (c *checks) like(name, pattern, got string) {
	if regexp.MustCompile(pattern).MatchString(got) {
		c.ok(name)
		return
	}
	c.fail(name, fmt.Sprintf("a match of `%s`", pattern), fmt.Sprintf("`%s`", got))
}

// runs says whether a call succeeded.
func (c *checks) runs(name string, err error) bool {
	if err == nil {
		c.ok(name)
		return true
	}
	c.fail(name, "no error", err)
	return false
}

var requestID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// refused wants the status, a message and a request id, in the body as well as in the header.
func (c *checks) refused(name string, status int, pattern string, err error) {
	var response *godo.ErrorResponse
	if !errors.As(err, &response) {
		c.fail(name, fmt.Sprintf("an answer %d", status), err)
		return
	}
	header := response.Response.Header.Get("x-request-id")
	switch {
	case response.Response.StatusCode != status:
		c.fail(name, status, err)
	case !regexp.MustCompile(pattern).MatchString(response.Message):
		c.fail(name, fmt.Sprintf("a message like `%s`", pattern), fmt.Sprintf("`%s`", response.Message))
	case !requestID.MatchString(response.RequestID) || header != response.RequestID:
		c.fail(name, "one request id in body and header", fmt.Sprintf("`%s` and `%s`", response.RequestID, header))
	default:
		c.ok(name)
	}
}

// status is the HTTP status of a call, 0 when there was no answer.
func status(response *godo.Response) int {
	if response == nil || response.Response == nil {
		return 0
	}
	return response.StatusCode
}

const notFound = http.StatusNotFound
