-- Renew the lease of an owned inbox.
-- KEYS  1 lease  2 stream
-- ARGV  1 lease in ms  2 clock offset in ms  3 id of the last entry read, or 0-0  4 serial of the last credits, or -1
--       5... channel, unread messages that the owner knows of
-- Returns {now in ms, 1 if it is held or 0 if it is gone}. What another program has written in its place is removed.
-- The counts of unread messages are set to what the owner knows if nothing has been pushed, and no credits were returned,
-- since it looked: they may be those of an older snapshot.
local time = redis.call('TIME')
local server = time[1] * 1000 + math.floor(time[2] / 1000)
local now = server + tonumber(ARGV[2])
local lease, last = {}, nil
if redis.call('TYPE', KEYS[1]).ok == 'hash' then lease = redis.call('HMGET', KEYS[1], 'g', 'b') end
if redis.call('TYPE', KEYS[2]).ok == 'stream' then
  local facts = redis.call('XINFO', 'STREAM', KEYS[2])
  for place = 1, #facts, 2 do if facts[place] == 'last-generated-id' then last = facts[place + 1] end end
end
if not last or tonumber(string.match(last, '^%d+')) > server + 86400000 then -- a day ahead: no entry would expire
  redis.call('DEL', KEYS[1], KEYS[2])
  return {now, 0}
end
if not lease[1] or not tonumber(lease[2]) then
  redis.call('DEL', KEYS[1])
  return {now, 0}
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
if lease[2] == ARGV[4] and last == ARGV[3] then
  local counts = {}
  for place = 5, #ARGV, 2 do counts['n' .. ARGV[place]] = ARGV[place + 1] end
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 1) == 'n' and not counts[field] then redis.call('HDEL', KEYS[1], field) end
  end
  for field, count in pairs(counts) do redis.call('HSET', KEYS[1], field, count) end
end
return {now, 1}
