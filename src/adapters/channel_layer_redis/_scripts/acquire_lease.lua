-- Acquire the lease of an owned inbox, make its stream, and move into it what was sent while it had no owner.
-- KEYS  1 lease  2 stream  3 queue  4 signal  5 unread
-- ARGV  1 generation  2 lease in ms  3 expiry in ms  4 clock offset in ms  5 id of the last entry read, or 0-0
--       6... channel, unread messages that the owner holds for it
-- Returns {now in ms, 1 if the stream is new, messages that had expired}. Keys of other types are removed.
local time = redis.call('TIME')
local server = time[1] * 1000 + math.floor(time[2] / 1000)
local now = server + tonumber(ARGV[4])
for place, kind in ipairs({'hash', 'stream', 'list'}) do
  if redis.call('TYPE', KEYS[place]).ok ~= kind then redis.call('DEL', KEYS[place]) end
end
if redis.call('HEXISTS', KEYS[1], 'g') == 0 then -- a stream without messages may have been made to tell just that
  local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 2)
  if #entries == 0 or #entries == 1 and entries[1][2][2] == 'l' then redis.call('DEL', KEYS[2]) end
end
local fresh = 1 - redis.call('EXISTS', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'g', ARGV[1], 'b', 0)
for place = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], 'n' .. ARGV[place], ARGV[place + 1]) end
local function count(frame)
  if #frame > 1 and string.sub(frame, 1, 1) == 'm' then
    redis.call('HINCRBY', KEYS[1], 'n' .. string.sub(frame, 3, 2 + string.byte(frame, 2)), 1)
  end
end
if fresh == 1 then
  redis.call('XADD', KEYS[2], '*', '0', '')
  redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
else
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[5], '+')) do count(entry[2][2]) end
  local ms, number = string.match(ARGV[5], '^(%d+)-(%d+)$')
  local place = string.format('%s-%d', ms, number + 1)
  if type(redis.pcall('XADD', KEYS[2], place, '0', '')) == 'string' then
    redis.call('XDEL', KEYS[2], place) -- the server came back older: what it adds next has to come after the position
  end
end
local expired = 0
while true do
  local entry = redis.call('LPOP', KEYS[3])
  if not entry then break end
  local stamp = #entry >= 8 and math.abs(struct.unpack('>d', entry)) or 0 -- a shorter one is not ours
  if stamp > now - tonumber(ARGV[3]) then
    local frame = string.sub(entry, 9)
    redis.call('XADD', KEYS[2], '*', string.format('%.0f', stamp - server), frame)
    count(frame)
  else
    expired = expired + 1
  end
end
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {now, fresh, expired}
