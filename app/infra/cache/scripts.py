"""The cache protocol's four steps on Valkey, each atomic.

Every key has one hash tag, the namespace, so that a script works on a cluster: a cache is one slot.

    {c}e:<release>:<entry>   "L" + lease, or "V" + fill id + number of tags + tag tokens + envelope
    {c}t:<tag>     a random token, made on demand; an invalidation deletes it
    {c}log         hash: epoch (random), n, floor, and for each tag the n of its last change

A stored entry is valid while the tokens in it are those that its tags have now. A load may be
stored unless the log tells of a change since the lease. Tokens and epochs are random, so that what
was evicted or flushed can only make entries invalid, and never valid again.
"""

# Whatever stands in a key may be damaged, or of another type: GET and HMGET are then refused, which
# `pcall` returns and `call` raises. The script that finds damage overwrites it.
_READ_LOG = """
local function number(value)
  local plain = type(value) == 'string' and #value < 16 and string.match(value, '^%d+$')
  return plain and tonumber(value) or nil
end
-- Nothing for a log that is missing or damaged.
local function read_log(log)
  local state = redis.pcall('HMGET', log, 'epoch', 'n', 'floor')
  local n, floor = number(state[2]), number(state[3])
  if state[1] and n and floor and floor <= n then return state[1], n, floor end
end
"""

# A new log refuses every load that is under way: it cannot know what was changed before it.
_WITH_LOG = (
    _READ_LOG
    + """
local function log_state(log, epoch)
  local present, n = read_log(log)
  if present then return present, n end
  -- With the time: the same command, sent again by a client that retries, makes another epoch.
  local time = redis.call('TIME')
  epoch = epoch .. time[1] .. '.' .. time[2]
  redis.call('DEL', log)
  redis.call('HSET', log, 'epoch', epoch, 'n', 0, 'floor', 0)
  return epoch, 0
end
"""
)

# KEYS entry, log · ARGV lease, fill id judged invalid, new epoch, lease milliseconds, wanted
# → epoch and n with a lease, "WAIT" for somebody else's, "AGAIN" when another value stands there.
LEASE = (
    _WITH_LOG
    + """
local now = redis.pcall('GET', KEYS[1])
if type(now) == 'string' and ARGV[5] ~= 'anyway' then
  if string.sub(now, 1, 1) == 'L' and #now == 1 + #ARGV[1] then
    if string.sub(now, 2) ~= ARGV[1] then return {'WAIT'} end
  elseif string.sub(now, 2, 18) ~= ARGV[2] then
    return {'AGAIN'}
  end
end
local epoch, n = log_state(KEYS[2], ARGV[3])
if ARGV[5] ~= 'anyway' then redis.call('SET', KEYS[1], 'L' .. ARGV[1], 'PX', ARGV[4]) end
return {'LEASED', epoch, n}
"""
)

# KEYS entry, log, tags… · ARGV epoch, n, head, envelope, entry and token milliseconds, a token
# a tag, and the names of the tags → the tokens that are stored with it, or nothing if refused.
FILL = (
    _READ_LOG
    + """
local epoch, last, floor = read_log(KEYS[2])
local n = tonumber(ARGV[2])
if epoch ~= ARGV[1] or n < floor then return false end
local count = #KEYS - 2
local latest = n
for i = 1, count do
  local changed = redis.call('HGET', KEYS[2], ARGV[6 + count + i])
  if changed then latest = math.max(latest, number(changed) or last + 1) end
end
-- A log that counts less than it has handed out or noted is damaged: it begins anew.
if latest > last then redis.call('DEL', KEYS[2]) return false end
if latest > n then return false end
local tokens = {}
for i = 1, count do
  local token = redis.pcall('GET', KEYS[2 + i])
  if type(token) == 'string' and #token == #ARGV[6 + i] then
    redis.call('PEXPIRE', KEYS[2 + i], ARGV[6], 'GT')
  else
    token = ARGV[6 + i]
    redis.call('SET', KEYS[2 + i], token, 'PX', ARGV[6])
  end
  tokens[i] = token
end
local joined = table.concat(tokens)
redis.call('SET', KEYS[1], 'V' .. ARGV[3] .. joined .. ARGV[4], 'PX', ARGV[5])
return joined
"""
)

# KEYS entry · ARGV lease
RELEASE = """
if redis.call('GET', KEYS[1]) == 'L' .. ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS log, tags… · ARGV new epoch, most tags in the log, channel, message, names of the tags…
# It may run out of memory limits: refusing it would keep what is stale.
INVALIDATE = (
    """#!lua flags=allow-oom
"""
    + _WITH_LOG
    + """
local epoch, n = log_state(KEYS[1], ARGV[1])
n = n + 1
if redis.call('HLEN', KEYS[1]) + #KEYS > tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'floor', n - 1)
end
redis.call('HSET', KEYS[1], 'n', n)
for i = 2, #KEYS do
  redis.call('HSET', KEYS[1], ARGV[3 + i], n)
  redis.call('DEL', KEYS[i])
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return n
"""
)

# KEYS any key of the namespace. It is refused when INVALIDATE is, and leaves nothing behind.
PROBE = """#!lua flags=allow-oom
redis.call('HSET', KEYS[1], 'probe', '')
return redis.call('DEL', KEYS[1])
"""
