-- Send to a group: to every inbox at once if the group has no other members, else return its members.
-- KEYS  1 owned  2 others  3 inboxes    (see join.lua)
-- ARGV  1 1 to deliver at once  2 frame  3 prefix  4 inbox capacity  5 ms that owned members last, or -1
--       6 ms that others last  7 clock offset in ms  8 lease in ms
-- Returns {version, 1, full inboxes} when it has delivered, else {version, 0, inboxes, other members}.
-- Delivering at once touches the keys of inboxes, which are not declared: the caller asks for it on a single host only.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[7])
local function forget(inbox, some)
  local count, last = string.match(redis.call('HGET', KEYS[3], inbox) or '', '^(%d+):(%d+)$')
  if whole(count) > some then
    redis.call('HSET', KEYS[3], inbox, string.format('%d:%s', count - some, last))
  else
    redis.call('HDEL', KEYS[3], inbox)
  end
end
if tonumber(ARGV[5]) >= 0 then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[5]))) do
    redis.call('ZREM', KEYS[1], member)
    forget(string.match(member, '^.-!') or member, 1)
  end
end
local others = redis.call('ZCARD', KEYS[2])
if others > 0 then
  others = others - redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[6]))
end
local version, inboxes = '0', {}
local found = redis.call('HGETALL', KEYS[3])
for place = 1, #found, 2 do
  local inbox = found[place]
  if inbox == '' then version = string.format('%.0f', whole(found[place + 1])) else inboxes[#inboxes + 1] = inbox end
end
if ARGV[1] ~= '1' or others > 0 then
  return {version, 0, inboxes, redis.call('ZRANGE', KEYS[2], 0, -1)}
end
local full, dead, open = {}, {}, {}
for _, inbox in ipairs(inboxes) do -- before any delivery: after an error here none has got the message
  local lease, stream = ARGV[3] .. 'l:{' .. inbox .. '}', ARGV[3] .. 's:{' .. inbox .. '}'
  if redis.call('HEXISTS', lease, 'g') == 0 then
    dead[inbox] = true
    -- Its owner, if it lives, reads a frame that says so: the lease was evicted, or ended as the clock was set forward.
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    if not last or last[2][2] ~= 'l' then redis.call('XADD', stream, '*', ARGV[7], 'l') end
    if redis.call('PTTL', stream) < 0 then redis.call('PEXPIRE', stream, ARGV[8]) end
  elseif redis.call('XLEN', stream) >= tonumber(ARGV[4]) then
    full[#full + 1] = inbox
  else
    open[#open + 1] = {inbox, lease, stream}
  end
end
for _, place in ipairs(open) do
  local inbox, lease, stream = unpack(place)
  local added = redis.pcall('XADD', stream, 'NOMKSTREAM', '*', ARGV[7], ARGV[2])
  if not added then
    redis.call('XADD', stream, '*', ARGV[7], ARGV[2])
    redis.call('PEXPIRE', stream, redis.call('PTTL', lease))
  elseif type(added) == 'table' then -- refused
    if not string.find(added.err, 'last possible ID') then return added end
    full[#full + 1] = inbox -- another program has used up the ids of its stream
  end
end
if next(dead) then
  for inbox in pairs(dead) do redis.call('HDEL', KEYS[3], inbox) end
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if dead[string.match(member, '^.-!')] then redis.call('ZREM', KEYS[1], member) end
  end
end
return {version, 1, full}
