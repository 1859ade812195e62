-- Remove a channel from a group, by whichever process it was added.
-- KEYS  1 owned  2 others  3 inboxes  4 left  and to put a marker: 5 lease  6 stream    (see join.lua)
-- ARGV  1 group  2 member  3 its inbox, or ''  4 lifetime of the group's keys in ms  5 ms that the leaving is kept
--       6 clock offset in ms  7 the latest version at which the owner knows that it added one of its channels, or ''
-- Returns {version, 1 if the marker was put, 1 if it was applied or 0 if the owner has added one since}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = whole(redis.call('HGET', KEYS[3], ''))
if ARGV[7] ~= '' then
  local last = string.match(redis.call('HGET', KEYS[3], ARGV[3]) or '', '^%d+:(%d+)$')
  if not redis.call('ZSCORE', KEYS[1], ARGV[2]) or not last or whole(last) > tonumber(ARGV[7]) then
    return {string.format('%.0f', known), 0, 0}
  end
end
local version = string.format('%.0f', math.max(known + 1, time[1] * 1000000 + time[2]))
if known > 0 or redis.call('EXISTS', KEYS[1]) == 0 then -- else 3 was evicted, and the next join counts anew
  redis.call('HSET', KEYS[3], '', version)
end
if redis.call('ZREM', KEYS[1], ARGV[2]) == 1 then
  local count, last = string.match(redis.call('HGET', KEYS[3], ARGV[3]) or '', '^(%d+):(%d+)$')
  if whole(count) > 1 then
    redis.call('HSET', KEYS[3], ARGV[3], string.format('%d:%s', count - 1, last))
  else
    redis.call('HDEL', KEYS[3], ARGV[3])
  end
end
redis.call('ZREM', KEYS[2], ARGV[2])
if redis.call('PTTL', KEYS[3]) < 0 then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[4], now, ARGV[2]) -- first, so that the key stays: see pop.lua
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[5]))
  redis.call('PEXPIRE', KEYS[4], ARGV[5])
end
local marked = 0
if KEYS[5] and redis.call('HEXISTS', KEYS[5], 'g') == 1 then
  local marker = string.format('-%s%s%s%s%s:0', string.char(#ARGV[1]), ARGV[1], string.char(#ARGV[2]), ARGV[2], version)
  redis.call('XADD', KEYS[6], '*', ARGV[6], marker)
  redis.call('PEXPIRE', KEYS[6], redis.call('PTTL', KEYS[5]))
  marked = 1
end
return {version, marked, 1}
