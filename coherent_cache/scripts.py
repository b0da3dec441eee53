"""The Lua scripts of the cache protocol. Valkey runs each script atomically.

All keys contain the same hash tag, the namespace. On a cluster they are therefore in one slot, so a
script can use several of them. The keys, for the namespace c:

    {c}e:<code version>:<entry key>   one of
        "L" + lease token                               a lease: its holder is loading
        "V" + schema and random id (together the fill id) + number of tags + tag tokens
            + checksum and content                      an entry; see entry.py
    {c}t:<tag>   the tag's token: random, created on demand, deleted by an invalidation
    {c}log       a hash that counts invalidations:
        epoch    the random name of this log
        n        the number of invalidations that this log has recorded
        floor    invalidations up to this n may be missing, because the log was trimmed
        <key of a tag>   the n of the tag's last invalidation

An entry is valid while the tokens in it equal the current tokens of its tags. A load may be stored
only if the log shows that none of its tags was invalidated since the lease. Tokens and epochs are
random. An eviction or a flush can therefore make an entry invalid, but never valid again.
"""

# A key may hold a damaged value or a value of another type. GET and HMGET then return an error:
# `pcall` returns it, where `call` would raise it. The script that finds the damage overwrites it.
#
# A new log has a new epoch, so FILL refuses every load in progress. It must, because a new log does
# not know which tags were invalidated before it existed.
_LOG = """
local function number(value)
  local plain = type(value) == 'string' and #value < 16 and string.match(value, '^%d+$')
  return plain and tonumber(value) or nil
end
-- Returns nothing if the log is missing or damaged.
local function read_log(log)
  local state = redis.pcall('HMGET', log, 'epoch', 'n', 'floor')
  local n, floor = number(state[2]), number(state[3])
  if state[1] and n and floor and floor <= n then return state[1], n, floor end
end
-- The epoch includes the time. A command that a client sends again must create another epoch.
local function new_epoch(random)
  local time = redis.call('TIME')
  return random .. time[1] .. '.' .. time[2]
end
local function open_log(log, random)
  local epoch, n = read_log(log)
  if epoch then return epoch, n end
  epoch = new_epoch(random)
  redis.call('DEL', log)
  redis.call('HSET', log, 'epoch', epoch, 'n', 0, 'floor', 0)
  return epoch, 0
end
"""

# Asks for the right to load.
# KEYS  entry, log
# ARGV  lease token, fill id of the entry that was found invalid, random part of a new epoch, lease
#       milliseconds, "force" to load without holding the lease
# Returns {epoch, n}, or false if another reader holds the lease, or has stored an entry meanwhile.
LEASE = (
    _LOG
    + """
local function is_own_lease(value, token)
  return string.sub(value, 2) == token
end
local now = redis.pcall('GET', KEYS[1])
if type(now) == 'string' and ARGV[5] ~= 'force' then
  if string.sub(now, 1, 1) == 'L' and #now == 1 + #ARGV[1] then
    if not is_own_lease(now, ARGV[1]) then return false end
  elseif string.sub(now, 2, 18) ~= ARGV[2] then
    return false
  end
end
local epoch, n = open_log(KEYS[2], ARGV[3])
if ARGV[5] ~= 'force' then redis.call('SET', KEYS[1], 'L' .. ARGV[1], 'PX', ARGV[4]) end
return {epoch, n}
"""
)

# Stores a loaded entry.
# KEYS  entry, log, the key of each tag
# ARGV  epoch and n of the lease, header, checksum and content, entry milliseconds, token
#       milliseconds, a new token for each tag, the key of each tag
# Returns the tokens that were stored with the entry, or false if the fill was refused.
FILL = (
    _LOG
    + """
local function is_same_log(epoch, leased_epoch)
  return epoch == leased_epoch
end
local function was_trimmed_since(n, floor)
  return n < floor
end
-- A log whose n is below an n that it handed out or recorded is damaged.
local function was_set_back(latest, last)
  return latest > last
end
local function was_invalidated_since(n, latest)
  return latest > n
end
local epoch, last, floor = read_log(KEYS[2])
local n = tonumber(ARGV[2])
if not is_same_log(epoch, ARGV[1]) or was_trimmed_since(n, floor) then return false end
local count = #KEYS - 2
local latest = n
for i = 1, count do
  local changed = redis.call('HGET', KEYS[2], ARGV[6 + count + i])
  if changed then latest = math.max(latest, number(changed) or last + 1) end
end
if was_set_back(latest, last) then redis.call('DEL', KEYS[2]) return false end
if was_invalidated_since(n, latest) then return false end
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

# Gives up an unused lease.
# KEYS  entry
# ARGV  lease token
RELEASE = """
if redis.call('GET', KEYS[1]) == 'L' .. ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# Invalidates every entry that has one of the tags, and publishes the tags to the channel.
# KEYS  log, the key of each tag
# ARGV  random part of a new epoch, maximum size of the log, channel, message, the key of each tag
# It may exceed `maxmemory`, because a refused invalidation would leave stale entries.
INVALIDATE = (
    """#!lua flags=allow-oom
"""
    + _LOG
    + """
local epoch, n = open_log(KEYS[1], ARGV[1])
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

# Tests whether INVALIDATE would be refused at this moment. It leaves no key behind.
# KEYS  any key of the namespace
PROBE = """#!lua flags=allow-oom
redis.call('HSET', KEYS[1], 'probe', '')
return redis.call('DEL', KEYS[1])
"""
